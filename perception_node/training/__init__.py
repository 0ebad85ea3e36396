"""How a panoptic network is trained: `perception train` and `perception export`; training/ has the configurations.

Panoptic-DeepLab (Cheng et al., CVPR 2020) on labelled frames of any format that `perception evaluate` reads. Only this
package needs torch: pip install 'perception_node[train]'.
"""
