"""The figures of a report, each from the records of a sweep's SAEs to charts."""
