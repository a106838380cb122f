"""Tests of the clauses of the certificate."""
