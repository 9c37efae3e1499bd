"""What happens when something goes wrong: one test a fault, and `docs/faults.md` is made of them."""
