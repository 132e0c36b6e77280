"""The commands `banet data ...`: data sets checked, made and converted."""
