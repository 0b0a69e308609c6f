"""chipfit: hardware-aware model compression, compiled and measured."""

if __name__ != "chipfit":
    raise ImportError("Import this package as `chipfit`, not as `compiler`: a second copy would double its registries.")
