"""RayClusters that KubeRay creates: manifest, life cycle, diagnosis and clean-up."""
