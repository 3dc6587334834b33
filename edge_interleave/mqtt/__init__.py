"""MQTT: reports sources, rules and alerts to a broker, announces them to Home Assistant, and takes commands from there.

`bridge` puts the room together. `connection` is the only module that uses paho-mqtt.
"""
