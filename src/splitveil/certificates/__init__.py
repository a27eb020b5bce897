"""What no attacker can beat: bounds computed for a run, their card, and the attacks that stand against them."""
