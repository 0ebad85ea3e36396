"""What each fusion family computes, in whole-array numpy written for clarity: the kernels must agree to the pixel."""
