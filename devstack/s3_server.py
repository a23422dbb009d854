"""`python -m devstack.s3_server`: moto's server, quiet; S3 and Glue in the memory of one process."""

import logging

from moto.server import main

if __name__ == "__main__":
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    main()
