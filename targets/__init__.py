if __name__ != "chipfit.targets":
    raise ImportError("Import this package as `chipfit.targets`: a second copy would double its registries.")
