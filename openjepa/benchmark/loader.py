def images_per_second(*a): return 0.0
