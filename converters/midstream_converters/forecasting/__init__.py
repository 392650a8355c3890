"""The recurrent network that forecasts what a gateway's partitions need: trained, judged, written with its card."""
