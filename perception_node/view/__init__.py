"""`perception view`: what the node saw, in a browser, through rerun.io's viewer: it comes whole from PyPI and is
served by this machine, so that neither RViz nor internet nor an account is needed.

Data flow one way: messages, out of bags, of footage that is perceived now (messages.py), or of running nodes (live.py),
become the viewer's entities (entities.py) in its layout (layout.py), and go to a file or a browser (serve.py).
"""
