"""Which contract an implementation follows: its outputs against variants of the oracle.

_forms        the oracle's forms with places where a departure may act
_reading      what a subject is taken to compute: inputs, constants, such places; and its reference
_departures   all departures that are known, each written once
_probes       the cases that make them visible
_fit          the smallest set of departures that explains what a subject returned
_diagnosis    a subject, dtype by dtype
_text         a diagnosis in the terminal
"""
