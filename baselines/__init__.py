"""Every model that PMR is compared with."""
