"""Converting a model and sampling it: converter, ODE sampler, grids of sigmas, and all of it in one node."""
