"""Simulated motors and detectors. A beamline puts its own here."""

from bluesky_prefect.core import get_settings
from bluesky_prefect.sim import make_devices

devices = make_devices(get_settings().state_directory / "images")
motor, motor1, motor2 = devices.motor, devices.motor1, devices.motor2
det, det1, det2, noisy_det = devices.det, devices.det1, devices.det2, devices.noisy_det
image_det = devices.image_det
