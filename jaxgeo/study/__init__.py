"""The main job: digits on the sphere, an ensemble and MC dropout against HMC, scores, hardware, a report."""
