"""The demo: footage through real ROS 2. A player, the node and a recorder, each a process of its own.

python -m perception_node.demo SOURCE --out out
"""
