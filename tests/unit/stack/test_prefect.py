"""The settings of the stack's Prefect processes."""

import ssl

from bluesky_prefect.stack._info import StackPaths
from bluesky_prefect.stack._prefect import client_environment


def test_its_clients_do_not_read_the_certificates_of_the_world(tmp_path):
    bundle = client_environment(StackPaths(tmp_path))["PREFECT_API_SSL_CERT_FILE"]
    [nobody] = ssl.create_default_context(cafile=bundle).get_ca_certs()
    assert "no server has this certificate" in str(nobody["subject"])
