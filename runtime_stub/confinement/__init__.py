"""A pack that keeps itself in: what its processes may do, enforced by the Linux kernel."""
