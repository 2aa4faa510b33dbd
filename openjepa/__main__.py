"""`python -m openjepa`, which is what `torchrun -m openjepa` needs."""

from openjepa.cli import main

if __name__ == "__main__":
    main()
