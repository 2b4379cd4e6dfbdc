"""Keys, grants and the post-quantum seam: who may do what, and how a signature is made and checked."""
