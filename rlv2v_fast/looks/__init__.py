"""How a video looks, apart from what it shows: a smooth map of colours, estimated from clips of different scenes.

    from rlv2v_fast.looks.prior import estimate
    look = estimate(source_clips, target_clips).look      # (N, T, 3, H, W) in [-1, 1] each, unpaired
    translated = look.apply(video)                        # (..., 3, H, W)

The network that estimates it was trained once, on random looks of random pictures. It never saw the user's clips.
"""
