"""Train a metanet: ``python train.py fit --config configs/NAME.yaml``."""

from metanet.training import main

if __name__ == "__main__":
    main()
