"""The log of services, on standard error: a line of text, or a JSON object a line."""

import datetime
import json
import logging
from collections.abc import Iterable

from bluesky_prefect.core import Settings


class _JSONLines(logging.Formatter):
    """Writes a record as a JSON object, on one line whatever it holds."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        fields = {
            "time": at.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def log_to_standard_error(settings: Settings, *, others: Iterable[str]) -> None:
    """Write what is logged to standard error, as the setting ``log_format`` says; of other packages only warnings."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if settings.log_format == "json":
        logging.getLogger().handlers[0].setFormatter(_JSONLines())
        logging.captureWarnings(True)
    for name in others:
        logging.getLogger(name).setLevel(logging.WARNING)
