"""A rotating shallow-water atmosphere on the sphere, kept turbulent by unstable jets: the default's world.

    dzeta/dt  = -div((zeta + f) V)                              + (zeta_eq - zeta) / tau - nu lap^4 zeta
    ddelta/dt =  curl((zeta + f) V) - lap(Phi + Phi_s + |V|^2/2)          - delta / tau - nu lap^4 delta
    dPhi/dt   = -div(Phi V)                                     + (Phi_eq - Phi) / tau

Phi = g h, h the layer depth (m), V = (u, v) the wind (m s-1), Phi_s the mountains' geopotential.
(zeta_eq, Phi_eq) are balanced zonal jets, barotropically unstable (after Galewsky et al. 2004): the waves
that break them never die, and the weather is chaotic but deterministic. The transforms are torch-harmonics'.
The stepping is here (leapfrog, gravity waves semi-implicit about the mean depth, Robert-Asselin filter): it
takes 1200 s steps at T42 where the library's explicit one takes 150 s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch_harmonics import InverseRealSHT, RealSHT
from torch_harmonics.examples import ShallowWaterSolver
from torch_harmonics.legendre import legpoly

DAY = 86400.0
OUTPUT_INTERVAL = 6 * 3600.0  # s, between stored states
GRAVITY = 9.80616  # m s-2
VARIABLES = ("h", "u", "v")
# latitude (deg), width (deg), speed (m s-1); the waves bring the main jets down to 70-85 m s-1
JETS = ((38.0, 5.5, 100.0), (62.0, 5.0, 45.0), (-42.0, 5.5, 105.0), (-65.0, 5.0, 40.0))


class Atmosphere(ShallowWaterSolver):
    """Batched, forced, semi-implicit; the spectral state is (batch, 3, lmax, mmax): Phi, zeta, delta."""

    def __init__(
        self,
        n_lat: int = 64,
        n_lon: int = 128,
        truncation: int = 42,
        dt: float = 1200.0,  # s
        depth: float = 5600.0,  # m, mean free surface
        jets: tuple[tuple[float, float, float], ...] = JETS,
        relaxation: float | None = 10 * DAY,  # s; None: free flow
        mountains: bool = True,
        diffusion_time: float = 3 * 3600.0,  # s, damping time of the last wavenumber, order 8
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(
            n_lat, n_lon, dt, lmax=truncation + 1, mmax=truncation + 1, grid="legendre-gauss", havg=depth,
            gravity=GRAVITY,
        )  # fmt: skip
        self.relaxation = relaxation
        self.phi_mean = GRAVITY * depth
        lap = self.lap.clone()
        self.register_buffer("gravity_waves", 1.0 / (1.0 - dt**2 * lap * self.phi_mean))
        self.register_buffer("damping", 1.0 / (1.0 + 2 * dt / diffusion_time * (lap / lap[-1, 0]) ** 4))
        self._prepare_output(n_lat, n_lon)
        self.surface = self._mountains() * float(mountains)
        equilibrium = self.balanced_jets(jets)
        self.to(dtype)  # of the real tables; it would drop the imaginary part of a complex buffer
        ctype = torch.complex64 if dtype == torch.float32 else torch.complex128
        self.surface, self.equilibrium = self.surface.to(ctype), equilibrium.to(ctype)

    def _mountains(self) -> torch.Tensor:
        """Surface geopotential (spectral) of five smooth ridges: the climate is then not a zonal mean."""
        lat, lon = torch.meshgrid(self.lats, self.lons, indexing="ij")
        height = torch.zeros_like(lat)
        # (lat, lon, half width in lat, in lon: degrees; height m)
        for lat0, lon0, a, b, top in (
            (38, 90, 10, 18, 1400), (48, 250, 14, 8, 1100), (-25, 290, 18, 6, 1000), (72, 320, 8, 12, 800),
            (-35, 30, 10, 14, 700),
        ):  # fmt: skip
            away = (lon - math.radians(lon0) + math.pi) % (2 * math.pi) - math.pi
            height += top * torch.exp(
                -(((lat - math.radians(lat0)) / math.radians(a)) ** 2) - (away / math.radians(b)) ** 2
            )
        return self.grid2spec(GRAVITY * height)

    def balanced_jets(self, jets: tuple[tuple[float, float, float], ...]) -> torch.Tensor:
        """Jets u = U sech^2((lat - lat0) / width) with the depth that balances them, (3, lmax, mmax)."""
        lat = self.lats.reshape(-1, 1).expand(self.nlat, self.nlon)
        u = torch.zeros_like(lat)
        for lat0, width, speed in jets:  # degrees, degrees, m s-1
            u = u + speed / torch.cosh((lat - math.radians(lat0)) / math.radians(width)) ** 2
        u = u * torch.cos(lat) ** 2 / (torch.cos(lat) ** 2 + 0.02)  # regular at the poles
        return self.balance(torch.stack((u, torch.zeros_like(u))))

    def balance(self, wind: torch.Tensor) -> torch.Tensor:
        """The rotational part of a wind, in balance: lap(Phi + Phi_s) = curl((zeta + f) V) - lap |V|^2/2."""
        vortdiv = self.vrtdivspec(wind)
        vortdiv[1] = 0
        wind = self.getuv(vortdiv)
        vorticity = self.spec2grid(vortdiv[0])
        curl = self.vrtdivspec(wind * (vorticity + self.coriolis))[0]
        phi = self.invlap * curl - self.grid2spec(0.5 * (wind**2).sum(0)) - self.surface
        phi[0, 0] = math.sqrt(4 * math.pi) * self.phi_mean - self.surface[0, 0]
        return torch.stack((phi, vortdiv[0], vortdiv[1]))

    def start(self, batch: int, seed: int) -> torch.Tensor:
        """Initial states: the equilibrium plus random rotational wind of some m s-1 on planetary scales."""
        generator = torch.Generator().manual_seed(seed)
        degree = torch.arange(self.lmax).reshape(-1, 1)
        shape = (batch, self.lmax, self.mmax, 2)
        noise = torch.view_as_complex(torch.randn(shape, generator=generator, dtype=torch.float64)).to(
            self.surface
        )
        keep = (degree >= 2) & (degree <= 12) & (torch.arange(self.mmax) <= degree)
        state = self.equilibrium.expand(batch, -1, -1, -1).clone()
        state[:, 1] += 4e-6 * noise * keep  # s-1
        return state

    def tendency(self, state: torch.Tensor) -> torch.Tensor:
        """The explicit tendencies: everything but the linear gravity-wave terms and the relaxation."""
        fields = self.spec2grid(state[:, :2])  # (B, 2, lat, lon): Phi, zeta
        wind = self.getuv(state[:, 1:])
        anomaly = fields[:, :1] - self.phi_mean
        fluxes = self.vrtdivspec(torch.stack((wind * (fields[:, 1:] + self.coriolis), wind * anomaly), 1))
        kinetic = self.grid2spec(0.5 * (wind**2).sum(1))
        return torch.stack(
            (-fluxes[:, 1, 1], -fluxes[:, 0, 1], fluxes[:, 0, 0] - self.lap * (kinetic + self.surface)), 1
        )

    def step(self, before: torch.Tensor, now: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One leapfrog step: (state at t - dt, at t) -> (filtered at t, at t + dt)."""
        dt = self.dt
        explicit = before + 2 * dt * self.tendency(now)
        if self.relaxation is not None:
            explicit = explicit + 2 * dt / self.relaxation * (self.equilibrium - before)
        phi = explicit[:, 0] - dt * self.phi_mean * before[:, 2]
        divergence = explicit[:, 2] - dt * self.lap * before[:, 0]
        divergence = (divergence - dt * self.lap * phi) * self.gravity_waves
        phi = phi - dt * self.phi_mean * divergence
        after = torch.stack((phi, explicit[:, 1] * self.damping, divergence * self.damping), 1)
        return now + 0.03 * (before - 2 * now + after), after

    def run(self, state: torch.Tensor, days: float) -> Iterator[torch.Tensor]:
        """Yields the spectral state every 6 h, the initial one first."""
        every = round(OUTPUT_INTERVAL / self.dt)
        before, now = (
            state,
            state,
        )  # the first step is half as long as leapfrog's: forward Euler, damped by the filter
        for step in range(round(days * DAY / self.dt) + 1):
            if step % every == 0:
                yield now
            before, now = self.step(before, now)

    def _prepare_output(self, n_lat: int, n_lon: int) -> None:
        # u cos(lat) has one degree more than the stream function: exact as a scalar with lmax + 1
        self.wider = RealSHT(
            n_lat, n_lon, lmax=self.lmax + 1, mmax=self.mmax + 1, grid="legendre-gauss", csphase=False
        )
        self.regular = InverseRealSHT(
            n_lat, n_lon, lmax=self.lmax + 1, mmax=self.mmax + 1, grid="legendre-gauss", csphase=False
        )
        lat = regular_latitude(n_lat)
        x = torch.sin(torch.deg2rad(lat))  # cosine of the colatitude
        table = legpoly(self.mmax + 1, self.lmax + 1, x, inverse=True, csphase=False)  # (m, l, lat)
        self.regular.pct = table.permute(0, 2, 1).to(self.regular.pct).contiguous()
        self.register_buffer("cos_regular", torch.cos(torch.deg2rad(lat)).reshape(-1, 1))
        self.register_buffer("cos_gauss", torch.cos(self.lats).reshape(-1, 1))

    def fields(self, state: torch.Tensor) -> torch.Tensor:
        """h (m), u, v (m s-1) on the regular grid, exactly (no interpolation): (batch, 3, lat, lon)."""
        gaussian = torch.cat(
            (self.spec2grid(state[:, :1]) / GRAVITY, self.getuv(state[:, 1:]) * self.cos_gauss), 1
        )
        regular = self.regular(self.wider(gaussian))
        regular[:, 1:] /= self.cos_regular
        return regular

    def mass_and_energy(self, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean Phi (m2 s-2) and mean of Phi |V|^2/2 + Phi^2/2 + Phi Phi_s (m4 s-4) of each simulation."""
        phi = self.spec2grid(state[:, 0])
        wind = self.getuv(state[:, 1:])
        energy = phi * (wind**2).sum(1) / 2 + phi**2 / 2 + phi * self.spec2grid(self.surface)
        weight = self.quad_weights / (2 * self.nlon)
        return (phi * weight).sum((-2, -1)), (energy * weight).sum((-2, -1))


def regular_latitude(n_lat: int) -> torch.Tensor:
    """Cell centres from north to south, no poles: 90 - (j + 1/2) 180 / n (degrees)."""
    return 90 - (torch.arange(n_lat, dtype=torch.float64) + 0.5) * 180 / n_lat
