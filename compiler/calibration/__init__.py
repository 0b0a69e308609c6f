"""What kernels take on a chip at hand, timed once and kept: this machine, a board over TVM's RPC, a GPU."""
