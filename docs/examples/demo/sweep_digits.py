"""One task of the demo's sweep: a linear classifier with the learning rate of its array index."""

from __future__ import annotations

import os

from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split

RATES = (0.00001, 0.0001, 0.001, 0.01, 0.1, 1.0)
SEED = 7


def main() -> None:
    """Train, then print one line."""
    rate = RATES[int(os.environ["BURSAR_ARRAY_INDEX"])]
    images, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        images / 16, labels, test_size=0.2, random_state=SEED, stratify=labels
    )
    model = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=rate, random_state=SEED)
    model.set_params(max_iter=20, tol=None).fit(train_x, train_y)
    print(f"learning rate {rate:<7g} test accuracy {model.score(test_x, test_y):.2%}")


if __name__ == "__main__":
    main()
