"""The MANO-schema hand: files, the skinning layer, pose limits, skin and the generator of the free hand."""
