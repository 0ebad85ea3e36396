"""`perception view`: what the node saw, in a browser, through rerun.io's viewer: it comes whole from PyPI and is
served by this machine, so that neither RViz nor internet nor an account is needed.

Data flow one way. A stream of messages on the topics that are wanted (selection.py), out of bags or of footage that is
perceived now (messages.py), or of running nodes (live.py), becomes the viewer's entities (entities.py), which are drawn
in pixels (in_pixels.py) and in metres (in_metres.py) and laid out (layout.py), and goes to a file or a browser
(command.py, serve.py).
"""
