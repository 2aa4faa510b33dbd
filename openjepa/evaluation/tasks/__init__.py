"""One task a file; a file that is put here is found, listed and offered by `openjepa evaluate`."""
