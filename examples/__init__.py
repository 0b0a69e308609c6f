if __name__ != "chipfit.examples":
    raise ImportError("Import this package as `chipfit.examples`: a second copy would double its registries.")
