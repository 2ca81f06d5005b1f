"""How fast is an exact logistic regression of tall data, standard errors included, beside scikit-learn and glum?

    python bench/logistic.py

1,000,000 x 30 binary rows, C=1, in rows and in columns, float64 and float32, and with the columns scaled by 1e-3 to
1e5. Ours fits from the arrays to coefficients, certificate and the inverse Hessian, whose diagonal roots are standard
errors; peers fit coefficients. Before timing the objectives are compared: a peer whose objective is more than 1e-6
above ours (relative) has not solved the problem, which the table says.
"""

import warnings

import numpy as np
from glum import GeneralizedLinearRegressor
from sklearn.linear_model import LogisticRegression

from _measure import alternate, report
from _picture import ratios
from lastlayer.train import LinearClassifier

ROWS, WIDTH = 1_000_000, 30
BARS = {"scikit-learn": 2.5, "glum": 3.0}


def problem():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, WIDTH))
    coef = rng.normal(size=WIDTH) * 0.3
    y = (rng.random(ROWS) < 1 / (1 + np.exp(-(x @ coef + 0.2)))).astype(np.float64)
    return x, y, 10.0 ** rng.uniform(-3, 5, WIDTH)


def peers():
    def by_sklearn(solver, tol):
        return lambda x, y: LogisticRegression(solver=solver, tol=tol).fit(x, y)

    def by_glum(x, y):
        return GeneralizedLinearRegressor(family="binomial", alpha=1 / len(y), l1_ratio=0).fit(x, y)

    return {
        "sklearn lbfgs": by_sklearn("lbfgs", 1e-4),
        "sklearn newton-cholesky": by_sklearn("newton-cholesky", 1e-4),
        "glum": by_glum,
    }


def objective(x, y, model):
    coef, intercept = np.ravel(model.coef_).astype(float), float(np.ravel(model.intercept_)[0])
    z = x @ coef + intercept
    return float((np.logaddexp(0, -np.abs(z)) + np.where(z > 0, (1 - y) * z, -y * z)).sum() + coef @ coef / 2)


def ours(x, y):
    model = LinearClassifier().fit(x, y)
    return model, np.sqrt(np.diag(model.inverse_hessian_))


def measured(name, x, y):
    fits = {"lastlayer": ours, **peers()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = {who: fit(x, y) for who, fit in fits.items()}
        said = {str(w.category.__name__) for w in caught}
    model, errors = found["lastlayer"]
    assert model.certificate_.converged and (errors > 0).all()
    best = objective(x, y, model)
    above = {who: objective(x, y, found[who]) / best - 1 for who in peers()}
    assert min(above.values()) > -1e-9
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        times = alternate({who: lambda fit=fit: fit(x, y) for who, fit in fits.items()}, rounds=3)
    for who in peers():
        yield (
            name,
            who,
            f"{times['lastlayer']:.3f}",
            f"{times[who]:.3f}",
            f"{times[who] / times['lastlayer']:.2f}",
            f"{above[who]:.1e}",
            "yes" if above[who] <= 1e-6 else "no",
            " ".join(sorted(said)),
        )


def main():
    x, y, scale = problem()
    tables = {
        "float64 by rows": x,
        "float64 by columns": np.asfortranarray(x),
        "float32 by rows": x.astype(np.float32),
        "float64, columns of 1e-3 to 1e5": x * scale,
    }
    rows = [row for name, table in tables.items() for row in measured(name, table, y)]
    header = ("data", "peer", "ours, s", "peer, s", "peer / ours", "peer's objective above ours", "solved", "warnings")
    report("logistic", header, rows)
    dots = []
    for row in rows:
        bar = BARS["glum" if row[1] == "glum" else "scikit-learn"]
        dots.append((f"{row[0]}: {row[1]}{'' if row[6] == 'yes' else ' (not solved)'}", float(row[4]), bar))
    ratios("logistic", "1,000,000 x 30 binary: how many times as fast as a peer, standard errors included", dots)


if __name__ == "__main__":
    main()
