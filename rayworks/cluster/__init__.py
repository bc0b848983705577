"""Where Ray runs: embedded, an existing cluster, or a RayCluster on Kubernetes, behind one contract."""
