"""Operations on tensors that several methods share; none has weights of a method."""
