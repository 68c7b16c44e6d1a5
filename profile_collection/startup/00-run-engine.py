"""The RunEngine: runs go to Tiled, then start the beamline's workflows (BLUESKY_PREFECT_WORKFLOWS)."""

from bluesky_prefect.session import start_session

session = start_session()
RE, bec = session.run_engine, session.best_effort
tiled_client, raw = session.tiled_client, session.raw
