"""ODE Sampler: right, counted, stoppable, and clear about what it cannot do."""

import builtins
import sys

import pytest
import torch

STD = 0.5
FIXED = {"euler": (1, 1), "midpoint": (2, 2), "heun": (2, 2), "rk4": (4, 3)}
ADAPTIVE = ["dopri5", "bosh3"]
GRID = torch.linspace(0.93, 0.05, 9)


def settings(method, tolerance=1e-6, max_nfe=2000):
    extra = {"rtol": tolerance, "atol": tolerance, "max_nfe": max_nfe} if method in ADAPTIVE else {}
    return {"solver": method, **extra}


@pytest.fixture(scope="module")
def converted(host, gaussian):
    return host.convert(gaussian("EPS", STD))


@pytest.fixture
def ode(node):
    """`ode(method, ..)` -> SAMPLER of the pack's node."""
    return lambda *args, **kwargs: node("D2FSampler").execute(settings(*args, **kwargs)).result[0]


@pytest.fixture
def run(host, conditioning):
    """`run(model, sampler, levels)` -> (state that it started from, final latents), in the model's own scale."""
    import comfy.sample

    def sample(model, sampler, levels, callback=None, noise=None):
        noise = torch.randn(2, 4, 12, 12, generator=torch.manual_seed(3)) if noise is None else noise
        out = comfy.sample.sample_custom(
            model, noise, 1.0, sampler, levels, *conditioning, torch.zeros_like(noise), callback=callback,
            disable_pbar=True,
        )  # fmt: skip
        return float(levels[0]) * noise, model.model.process_latent_in(out) * (1 - float(levels[-1]))

    return sample


def deviation(s):
    return ((1 - s) ** 2 * STD**2 + s**2) ** 0.5


def error(start_and_end, levels):
    """Relative error against the exact flow of Gaussian data."""
    start, end = start_and_end
    exact = start * deviation(float(levels[-1])) / deviation(float(levels[0]))
    return float((end - exact).abs().max() / exact.abs().max())


@pytest.mark.parametrize("method, bounds", [
    ("euler", (0.2, 0.1)), ("midpoint", (0.02, 0.005)), ("heun", (0.03, 0.008)), ("rk4", (1e-3, 1e-4)),
])  # fmt: skip
def test_fixed_solvers_converge_at_their_order(converted, ode, run, method, bounds):
    coarse, fine = (error(run(converted, ode(method), grid), grid) for grid in (GRID, torch.linspace(0.93, 0.05, 17)))
    order = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}[method]
    assert coarse < bounds[0] and fine < bounds[1]
    assert coarse / fine > 0.75 * 2**order or fine < 1e-5


@pytest.mark.parametrize("method", ADAPTIVE)
def test_adaptive_solvers_meet_their_tolerance(converted, ode, run, method):
    pytest.importorskip("torchdiffeq")
    errors = [error(run(converted, ode(method, tolerance), GRID), GRID) for tolerance in (1e-2, 1e-4, 1e-6)]
    assert errors[0] < 3e-2 and errors[1] < 3e-4 and errors[2] < 3e-5


@pytest.mark.parametrize("method", [*FIXED, *ADAPTIVE])
def test_every_solver_reaches_the_clean_end(converted, ode, run, method):
    """At s = 0 the velocity does not exist: the last step ends open, and its error is a step's, not an infinity."""
    levels = torch.cat([torch.linspace(0.93, 0.0284, 40), torch.zeros(1)])
    bound = {"euler": 0.04}.get(method, 3e-3)
    assert error(run(converted, ode(method), levels), levels) < bound


def test_euler_is_the_stock_euler(host, eps_model, ode, sample):
    converted = host.convert(eps_model)
    for levels in (host.stock_sigmas(converted, "simple", 6), torch.tensor([0.8, 0.5, 0.3])):
        stock, ours = sample(converted, levels), sample(converted, levels, ode("euler"))
        assert torch.allclose(stock, ours, atol=1e-5 * float(stock.abs().max()))


@pytest.mark.parametrize("method", FIXED)
@pytest.mark.parametrize("open_end", [True, False])
def test_evaluations_of_fixed_solvers(converted, watch, ode, run, method, open_end):
    calls = []

    def network(execute, x, timesteps):
        calls.append(float(timesteps[0]))
        return execute()

    levels = torch.tensor([0.9, 0.6, 0.3, 0.0 if open_end else 0.1])
    run(watch(converted, network), ode(method), levels)
    inner, last = FIXED[method]
    assert len(calls) == 2 * inner + (last if open_end else inner)


def test_the_count_is_logged(converted, ode, run, caplog):
    with caplog.at_level("INFO", "diff2flow"):
        run(converted, ode("heun"), GRID)
    assert "heun: 16 model evaluations" in caplog.text


@pytest.mark.parametrize("method", [*FIXED, *ADAPTIVE])
def test_progress_counts_the_steps_of_the_schedule_once(converted, ode, run, method):
    seen = []
    levels = torch.cat([GRID, torch.zeros(1)])
    run(converted, ode(method, 1e-3), levels, callback=lambda step, x0, x, total: seen.append((step, total)))
    steps = [step for step, _ in seen]
    assert {total for _, total in seen} == {9}
    assert steps == sorted(steps)
    assert steps[-1] == 8 and steps[0] >= 0
    if method in FIXED:
        assert steps == list(range(9))


def test_too_many_evaluations_stop_with_words(converted, ode, run):
    pytest.importorskip("torchdiffeq")
    with pytest.raises(RuntimeError, match=r"limit of 9 evaluations at sigma = 0\.\d+; raise the limit"):
        run(converted, ode("dopri5", 1e-6, 9), GRID)


def test_without_torchdiffeq_the_install_command_is_named(converted, ode, run, monkeypatch):
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.split(".")[0] == "torchdiffeq":
            raise ModuleNotFoundError("No module named 'torchdiffeq'", name="torchdiffeq")
        return real(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.split(".")[0] == "torchdiffeq"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ModuleNotFoundError, match=r"euler.*-m pip install torchdiffeq$"):
        run(converted, ode("bosh3"), GRID)
    run(converted, ode("rk4"), GRID)


def test_an_unconverted_model_is_refused(eps_model, ode, run):
    with pytest.raises(ValueError, match=r"BaseModel.*put 'Convert to Flow Matching' between"):
        run(eps_model, ode("euler"), GRID)


@pytest.mark.parametrize("method", ["euler", "rk4", "dopri5"])
def test_nan_out_of_the_network_is_an_error(converted, watch, ode, run, method):
    broken = watch(converted, lambda execute, x, timesteps: torch.full_like(x, torch.nan))
    with pytest.raises(ArithmeticError, match=r"NaN or infinite .*sigma = 0\.\d+.*float32 or bfloat16.*CFG"):
        run(broken, ode(method), GRID)


def test_a_start_at_zero_is_refused(converted, ode, run):
    with pytest.raises(ValueError, match=r"starts at sigma 0.*begin at the smallest sigma above 0"):
        run(converted, ode("euler"), torch.tensor([0.0, 0.5]))


@pytest.mark.parametrize("method", ["euler", "rk4"])
def test_sigmas_that_stand_still_are_refused_in_the_users_words(converted, ode, run, method):
    with pytest.raises(ValueError, match=r"ODE solvers need sigmas that fall.*0\.9, 0\.5, 0\.5, 0; choose another"):
        run(converted, ode(method), torch.tensor([0.9, 0.5, 0.5, 0.0]))


@pytest.mark.parametrize("method", ["midpoint", "rk4", "bosh3"])
def test_ascending_levels_invert(converted, ode, run, method):
    up = GRID.flip(0)
    start, end = run(converted, ode(method), up)
    assert error((start, end), up) < (0.01 if method == "midpoint" else 1e-3)


@pytest.mark.parametrize("levels", [torch.zeros(0), torch.tensor([0.5])])
def test_no_step_changes_nothing(converted, ode, run, levels):
    if len(levels):
        start, end = run(converted, ode("euler"), levels)
        assert torch.allclose(start, end, atol=1e-6)
    else:
        import comfy.sample

        noise = torch.ones(1, 4, 8, 8)
        out = comfy.sample.sample_custom(converted, noise, 1.0, ode("euler"), levels, [], [], noise * 3)
        assert torch.equal(out, noise * 3)


@pytest.mark.parametrize("missing", [{}, {"rtol": None, "atol": None, "max_nfe": None}])
def test_tolerances_that_are_missing_are_at_their_widgets_defaults(node, part, missing):
    """As where the solver is chosen on the outside of a subgraph."""
    (combo,) = node("D2FSampler").define_schema().inputs
    widgets = next(option.inputs for option in combo.options if option.key == "dopri5")
    solver_settings = part("widgets").solver_settings
    assert solver_settings({"solver": "dopri5", **missing}) == {
        "method": "dopri5",
        **{widget.id: widget.default for widget in widgets},
    }
    assert solver_settings({"solver": "dopri5", "max_nfe": 7})["max_nfe"] == 7
    assert solver_settings({"solver": "rk4", **missing}) == {"method": "rk4"}


def test_a_native_flow_model_is_welcome(build, ode, sample):
    native = build(flow=True)
    levels = torch.tensor([1.0, 0.7, 0.3, 0.0])
    stock, ours = sample(native, levels), sample(native, levels, ode("euler"))
    assert torch.allclose(stock, ours, atol=1e-5 * float(stock.abs().max()))
    assert torch.isfinite(sample(native, levels, ode("dopri5", 1e-2))).all()
