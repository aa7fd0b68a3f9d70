"""HYDRA (Zhuang et al., NeurIPS 2024, arXiv 2406.02888) as one distributed batch job on Ray."""
