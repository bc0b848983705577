"""RayClusters that KubeRay creates: manifest, lifecycle, diagnosis and clean-up."""
