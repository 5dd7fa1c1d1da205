"""`fedrad audit`: attacks on what a simulated study lets out, measured with and without each protection.

The attacks play a curious coordinator, a curious hospital, or whoever is handed the finished model. They need all cases
in one place, so they exist in simulations only: a study is audited on generated or public cases, or on cases that one
institution holds, before hospitals are asked to run it.
"""
