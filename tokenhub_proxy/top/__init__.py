"""`top`: a live view of the running proxy on a terminal."""
