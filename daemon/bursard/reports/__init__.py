"""Reports: folds over the store's charges, as rows and files. They read; nothing here decides or writes."""
