"""Write assets/digits.npz from the copy of the UCI digits that scikit-learn bundles.

    pip install scikit-learn && python assets/make_digits.py

Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine Learning Repository (1998),
https://doi.org/10.24432/C50P49, CC BY 4.0. Changed: grey values 0..16 scaled to 0..255.
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits


def main() -> None:
    """images: uint8 (1797, 8, 8), 0 is paper and 255 ink; labels: uint8 (1797,)."""
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    target = Path(__file__).with_name("digits.npz")
    np.savez_compressed(target, images=images, labels=digits.target.astype(np.uint8))
    print(f"{target.name}: {len(images)} images, {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
