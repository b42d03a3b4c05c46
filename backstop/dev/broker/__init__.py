"""Where a Kafka broker comes from: given, from Docker, or Apache Kafka itself on the local JVM; see `chain`.

`up`, `down`, `status`: the broker of a checkout, which keeps running. `owned`: a broker that ends with the `with`
block, or with this process, even after SIGKILL. `Broker`: the JVM node itself, for tests that kill, freeze and restart
it.
"""

from backstop.dev.broker.errors import BrokerError, BrokerFailedError, NoBrokerError
from backstop.dev.broker.jvm import Broker
from backstop.dev.broker.node import BrokerPorts
from backstop.dev.broker.owned import Owned, local_kafka, owned
from backstop.dev.broker.service import BrokerRecord, Status, bootstrap_servers, down, status, up
from backstop.dev.broker.toolchain import LocalKafka

__all__ = [
    "Broker",
    "BrokerError",
    "BrokerFailedError",
    "BrokerPorts",
    "BrokerRecord",
    "LocalKafka",
    "NoBrokerError",
    "Owned",
    "Status",
    "bootstrap_servers",
    "down",
    "local_kafka",
    "owned",
    "status",
    "up",
]
