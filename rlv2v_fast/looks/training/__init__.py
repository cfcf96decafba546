"""Training the look prior: `python -m rlv2v_fast.looks.training --pictures DIR --out FILE`."""
