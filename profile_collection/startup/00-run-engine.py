"""The RunEngine: runs go to Tiled, then start the workflow."""

from bluesky_prefect.profile import start_session

session = start_session("my-workflow/local")
RE, bec = session.run_engine, session.best_effort
tiled_client, raw = session.tiled_client, session.raw
