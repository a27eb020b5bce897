"""Where to cut a network: what each place costs, and what a short training of each says."""
