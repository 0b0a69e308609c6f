if __name__ != "chipfit.passes":
    raise ImportError("Import this package as `chipfit.passes`: a second copy would double its registries.")
