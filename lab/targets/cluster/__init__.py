"""The lab on Kubernetes: the chart in `helm/antiphon`, on a kind cluster of our own or on any other cluster.

Everything goes through command lines that people have: docker, kind, helm, kubectl (`tools.py`). `kind.py` and
`image.py` make a cluster and an image, `release.py` installs the chart, `workloads.py` reads how its pods are, and why;
`base.py` and `target.py` join them.
"""
