"""Parameters of one attention's Q, K and V projections without biases, and of its head embeddings, by variant.

n heads of width d, sources as wide as the model (arXiv 2310.07911). Hence MHA - MHE = (3n² - 3n)d² - 3nd and
MHE - SHA = 3nd, which a test holds against the modules.
"""

FORMULAS = {
    "mha": ("3n²d²", lambda n, d: 3 * n**2 * d**2),
    "mhe-mul": ("3nd² + 3nd", lambda n, d: 3 * n * d**2 + 3 * n * d),
    "mhe-add": ("3nd² + 3nd", lambda n, d: 3 * n * d**2 + 3 * n * d),
    "mqa": ("n²d² + 2nd²", lambda n, d: n**2 * d**2 + 2 * n * d**2),
    "sha": ("3nd²", lambda n, d: 3 * n * d**2),
}
