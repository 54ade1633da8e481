"""The constructed interpolating network of Genzel, Finke and Dirksen (2023, arXiv 2310.00327).

A three-layer network that fits the labels of any two classes, built in one pass over the data. With
inputs x (d,), a random first layer W (n1, d), b (n1,), a second layer of 0-1 masks U (n2, n1) with
thresholds m (n2,), and s(z) = 1[z > 0] or max(0, z)::

    h(x) = s(W x + b)        z_j(x) = s(m_j - <u_j, h(x)>)        f(x) = 1[some z_j(x) > 0]

`literal` holds the algorithm as it is published, `greedy` the same result faster. Both work with
numpy on the two classes apart: ``minus``, whose samples must fire, and ``plus``, whose must not.
"""
