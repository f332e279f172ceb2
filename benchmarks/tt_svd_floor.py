"""How close the passes of TT-SVD come to what the processor and its memory allow.

The floor of a pass is the longer one of its arithmetic at the rate of the fastest matrix product and of its traffic
at the rate at which a sum reads memory, on the same core.
"""

import time
from collections.abc import Callable

import torch

from benchmarks import processor, today
from benchmarks.tt_svd import RESULTS
from benchmarks.tt_svd_compiled import maker
from ttnet.decomposition.unfolding import Unfolding
from ttnet.decomposition.unfolding_kernels import gram_matrix, project, sketch, sum_of_squares, triangle
from ttnet.numerics import compiled_product, machine_code
from ttnet.numerics.blas import matmul_for, torch_threads

NUMEL = 2**25


def seconds(run: Callable[[], object], rounds: int = 7) -> float:
    """The shortest processor time of some runs: what the machine does besides only ever adds to it."""
    run()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def rates(dtype: torch.dtype) -> tuple[float, float]:
    """Floating-point operations a second in the fastest product, and bytes a second in a sum.

    Products are a large square one by a library, and compiled one of what stays in cache.
    """
    x = torch.randn(NUMEL, dtype=dtype)
    matmul = matmul_for(x.device, dtype)
    ways = [(matmul, (1536, 1536, 1536))]
    if machine_code.is_available():
        ways.append((compiled_product.multiply, (1024, 192, 240)))
    found = []
    for way, (m, k, n) in ways:
        a, b, out = (torch.randn(size, dtype=dtype) for size in ((m, k), (k, n), (m, n)))
        found.append(2 * m * k * n / seconds(lambda way=way, a=a, b=b, out=out: way(a, b, out)))
    return max(found), x.numel() * x.itemsize / seconds(x.sum)


def passes(dtype: torch.dtype, side: str) -> list[tuple[str, float, float, Callable[[], object]]]:
    """Names, operations and bytes of passes, and functions that make them."""
    x = torch.randn(NUMEL, dtype=dtype)
    size = NUMEL * x.itemsize

    def unfolding(columns: int) -> Unfolding:
        whole = x[: NUMEL // columns * columns]
        return Unfolding(whole.view(columns, -1) if side == "left" else whole.view(-1, columns), 1, dtype, side=side)

    def projection(columns: int, rank: int, **options: str) -> Callable[[], object]:
        u = unfolding(columns)
        v, out = torch.linalg.qr(torch.randn(columns, rank, dtype=dtype))[0], u.new_product(rank)
        return lambda: project(u, v, out, dtype, **options)

    def sketching(columns: int, rows: int) -> Callable[[], object]:
        return lambda: sketch(unfolding(columns), rows, dtype, torch.Generator().manual_seed(0))

    found = [("norm", 2 * NUMEL, size, lambda: sum_of_squares(unfolding(64)))]
    for n in (16, 64, 256):
        run = lambda n=n: gram_matrix(unfolding(n), dtype)  # noqa: E731
        found.append((f"Gram matrix, n = {n}", NUMEL * n, size, run))
    for n, r in ((64, 16), (256, 16), (256, 64)):
        found.append((f"projection, {n} to {r}", 2 * NUMEL * r, size * (1 + r / n), projection(n, r)))
    found.append(("sketch, 400 to 20", 2 * NUMEL * 20, size, sketching(400, 20)))
    found.append(("projection and norms, 400 to 20", 2 * NUMEL * 22, size * 1.05, projection(400, 20, measure="norms")))
    found.append(
        ("projection and entries, 400 to 20", 2 * NUMEL * 41, size * 1.05, projection(400, 20, measure="entries"))
    )
    if dtype == torch.float64:
        for n in (64, 256):
            run = lambda n=n: triangle(unfolding(n))  # noqa: E731
            found.append((f"triangle, n = {n}", 2 * NUMEL * n, size, run))
    return found


def table(dtype: torch.dtype) -> str:
    with torch_threads():
        peak, bandwidth = rates(dtype)
        lines = [
            f"{str(dtype)[6:]}: {peak / 1e9:.0f} GFlop/s in the fastest product, {bandwidth / 1e9:.0f} GB/s in a sum, "
            f"{NUMEL} entries.\n",
            "| pass | flops an entry | bytes an entry | floor, ms | left, ms | right, ms | share of the floor |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ]
        for left, right in zip(passes(dtype, "left"), passes(dtype, "right"), strict=True):
            name, flops, moved, _ = left
            floor = max(flops / peak, moved / bandwidth)
            times = [seconds(run) for *_, run in (left, right)]
            lines.append(
                f"| {name} | {flops / NUMEL:.0f} | {moved / NUMEL:.1f} | {1e3 * floor:.0f} | {1e3 * times[0]:.0f} "
                f"| {1e3 * times[1]:.0f} | {floor / min(times):.0%} |"
            )
            print(lines[-1], flush=True)
    return "\n".join(lines)


if __name__ == "__main__":
    torch.set_num_threads(1)
    text = "\n\n".join(table(dtype) for dtype in (torch.float64, torch.float32))
    way = "compiled" if machine_code.is_available() else "libraries'"
    (RESULTS / f"tt_svd_floor_{maker()}.md").write_text(
        "# TT-SVD: its passes and their floors\n\n"
        f"{processor()}, {today()}, one thread, torch {torch.__version__}, {way} passes; the shortest of seven "
        "runs, in processor time, with the short side of the unfolding at the left or the right end. The last column "
        f"is for the faster of the two. Repeat: `OMP_NUM_THREADS=1 python -m benchmarks.tt_svd_floor`\n\n{text}\n"
    )
