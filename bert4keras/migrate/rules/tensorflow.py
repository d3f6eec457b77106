"""Names of TensorFlow 1 and 2; TensorFlow 2 has all those of TensorFlow 1 in `compat.v1`."""

from collections.abc import Iterator

_MODULES = "app distributions flags layers logging manip resource_loader user_ops"
"""Modules that only `tensorflow.compat.v1` has, with all that is in them."""

_MOVED = {
    "": """
        NoGradient=no_gradient NotDifferentiable=no_gradient reverse_v2=reverse
        tensor_scatter_add=tensor_scatter_nd_add tensor_scatter_sub=tensor_scatter_nd_sub
    """,
    "debugging": "check_numerics is_numeric_tensor",
    "errors": "OpError",
    "io": """
        FixedLenFeature FixedLenSequenceFeature SparseFeature VarLenFeature decode_base64
        decode_compressed decode_json_example encode_base64 matching_files parse_tensor read_file
        serialize_tensor train.match_filenames_once train.write_graph write_file
    """,
    "linalg": """
        cholesky cross diag=tensor_diag matrix_band_part=band_part matrix_determinant=det
        matrix_inverse=inv matrix_solve=solve qr
    """,
    "math": """
        betainc digamma erf erfc expm1 floormod igamma igammac invert_permutation is_finite is_inf
        is_nan lgamma log log1p mod=floormod polygamma reciprocal rint segment_max segment_mean
        segment_min segment_prod segment_sum squared_difference unsorted_segment_max
        unsorted_segment_min unsorted_segment_prod unsorted_segment_sum zeta
    """,
    "queue": """
        FIFOQueue PaddingFIFOQueue PriorityQueue QueueBase RandomShuffleQueue io.PaddingFIFOQueue
        io.PriorityQueue io.QueueBase io.RandomShuffleQueue
    """,
    "saved_model": "saved_model.load_v2=load",
    "signal": "fft fft2d fft3d ifft ifft2d ifft3d",
    "sparse": """
        sparse.matmul=sparse_dense_matmul sparse_fill_empty_rows=fill_empty_rows sparse_mask=mask
        sparse_maximum=maximum sparse_minimum=minimum sparse_reorder=reorder
        sparse_reset_shape=reset_shape sparse_retain=retain sparse_slice=slice
        sparse_softmax=softmax sparse_tensor_dense_matmul=sparse_dense_matmul
        sparse_tensor_to_dense=to_dense sparse_to_indicator=to_indicator sparse_transpose=transpose
    """,
    "strings": """
        string_strip=strip string_to_hash_bucket_fast=to_hash_bucket_fast
        string_to_hash_bucket_strong=to_hash_bucket_strong
    """,
}
"""Module of TensorFlow 2 → what is the same there as in TensorFlow 1, `old` or `old=new`."""

_ONLY_BEFORE = {
    "": """
        AUTO_REUSE AttrValue ConditionalAccumulator ConditionalAccumulatorBase ConfigProto Dimension
        Event FixedLengthRecordReader GPUOptions GraphDef GraphKeys GraphOptions HistogramProto
        IdentityReader InteractiveSession LMDBReader LogMessage MetaGraphDef NameAttrList NodeDef
        OptimizerOptions Print ReaderBase RunMetadata RunOptions Session SessionLog
        SparseConditionalAccumulator SparseTensorValue Summary SummaryMetadata TFRecordReader
        TensorInfo TextLineReader VariableScope WholeFileReader accumulate_n add_check_numerics_ops
        add_to_collection add_to_collections all_variables angle arg_max arg_min
        assert_greater_equal assert_integer assert_less_equal assert_near assert_negative
        assert_non_negative assert_non_positive assert_none_equal assert_positive
        assert_proper_iterable assert_rank_at_least assert_rank_in assert_same_float_dtype
        assert_scalar assert_type assert_variables_initialized assign assign_add assign_sub
        batch_scatter_update batch_to_space_nd bincount ceil cholesky_solve clip_by_average_norm
        colocate_with confusion_matrix conj container control_flow_v2_enabled
        convert_to_tensor_or_indexed_slices convert_to_tensor_or_sparse_tensor count_nonzero
        count_up_to create_partitioned_variables cumprod decode_csv decode_raw delete_session_tensor
        depth_to_space dequantize deserialize_many_sparse diag_part disable_control_flow_v2
        disable_eager_execution disable_resource_variables disable_tensor_equality
        disable_v2_behavior disable_v2_tensorshape div div_no_nan enable_control_flow_v2
        enable_eager_execution enable_resource_variables enable_tensor_equality enable_v2_behavior
        enable_v2_tensorshape executing_eagerly_outside_functions extract_image_patches
        fixed_size_partitioner floor_div floordiv get_collection get_collection_ref
        get_default_graph get_default_session get_local_variable get_seed get_session_handle
        get_session_tensor get_variable get_variable_scope global_norm global_variables
        global_variables_initializer glorot_normal_initializer glorot_uniform_initializer imag
        initialize_all_tables initialize_all_variables initialize_local_variables
        initialize_variables is_non_decreasing is_strictly_increasing is_variable_initialized lbeta
        lin_space load_file_system_library local_variables local_variables_initializer log_sigmoid
        logical_xor make_template matrix_diag matrix_diag_part matrix_set_diag matrix_solve_ls
        matrix_transpose matrix_triangular_solve min_max_variable_partitioner model_variables
        moving_average_variables multinomial no_regularizer op_scope orthogonal_initializer
        parse_example parse_single_example parse_single_sequence_example placeholder
        placeholder_with_default py_func random_crop random_gamma random_normal random_poisson
        random_shuffle random_uniform real reduce_join regex_replace report_uninitialized_variables
        reset_default_graph resource_variables_enabled rsqrt scatter_add scatter_div scatter_max
        scatter_min scatter_mul scatter_nd_add scatter_nd_sub scatter_nd_update scatter_sub
        scatter_update self_adjoint_eig self_adjoint_eigvals serialize_many_sparse serialize_sparse
        set_random_seed setdiff1d space_to_depth sparse_add sparse_concat sparse_matmul sparse_merge
        sparse_placeholder sparse_reduce_max sparse_reduce_max_sparse sparse_reduce_sum
        sparse_reduce_sum_sparse sparse_reshape sparse_segment_mean sparse_segment_sqrt_n
        sparse_segment_sum sparse_split sparse_to_dense string_join string_split
        string_to_hash_bucket string_to_number substr svd tables_initializer tensor_scatter_update
        to_bfloat16 to_complex128 to_complex64 to_double to_float to_int32 to_int64 trace
        trainable_variables truncated_normal truncated_normal_initializer
        uniform_unit_scaling_initializer unsorted_segment_mean unsorted_segment_sqrt_n
        variable_axis_size_partitioner variable_op_scope variable_scope variables_initializer
        variance_scaling_initializer verify_tensor_all_finite where_v2
    """,
    "data": """
        get_output_classes get_output_shapes get_output_types make_initializable_iterator
        make_one_shot_iterator
    """,
    "graph_util": """
        convert_variables_to_constants extract_sub_graph must_run_on_cpu remove_training_nodes
        tensor_shape_from_node_def_name
    """,
    "image": """
        extract_image_patches resize_area resize_bicubic resize_bilinear
        resize_image_with_crop_or_pad resize_image_with_pad resize_images resize_nearest_neighbor
        transpose_image
    """,
    "initializers": """
        global_variables local_variables tables_initializer uniform_unit_scaling variables
    """,
    "io": "TFRecordCompressionType tf_record_iterator",
    "losses": """
        absolute_difference add_loss compute_weighted_loss cosine_distance get_losses
        get_regularization_loss get_regularization_losses get_total_loss hinge_loss huber_loss
        log_loss mean_pairwise_squared_error mean_squared_error sigmoid_cross_entropy
        softmax_cross_entropy sparse_softmax_cross_entropy
    """,
    "metrics": """
        accuracy auc average_precision_at_k false_negatives false_negatives_at_thresholds
        false_positives false_positives_at_thresholds mean mean_absolute_error mean_cosine_distance
        mean_iou mean_per_class_accuracy mean_relative_error mean_squared_error mean_tensor
        percentage_below precision precision_at_k precision_at_thresholds precision_at_top_k recall
        recall_at_k recall_at_thresholds recall_at_top_k root_mean_squared_error
        sensitivity_at_specificity sparse_average_precision_at_k sparse_precision_at_k
        specificity_at_sensitivity true_negatives true_negatives_at_thresholds true_positives
        true_positives_at_thresholds
    """,
    "nn": """
        avg_pool_v2 bidirectional_dynamic_rnn conv2d_backprop_filter conv2d_backprop_input
        conv3d_backprop_filter conv3d_backprop_filter_v2 ctc_beam_search_decoder_v2 ctc_loss_v2
        depthwise_conv2d_native depthwise_conv2d_native_backprop_filter
        depthwise_conv2d_native_backprop_input dynamic_rnn fused_batch_norm
        log_uniform_candidate_sampler max_pool_v2 raw_rnn relu_layer rnn_cell
        softmax_cross_entropy_with_logits_v2 static_bidirectional_rnn static_rnn
        static_state_saving_rnn uniform_candidate_sampler xw_plus_b
    """,
    "random": "get_seed multinomial set_random_seed stateless_multinomial",
    "saved_model": """
        Builder LEGACY_INIT_OP_KEY MAIN_OP_KEY build_signature_def build_tensor_info
        classification_signature_def get_tensor_from_tensor_info is_valid_signature
        main_op_with_restore maybe_saved_model_directory predict_signature_def
        regression_signature_def simple_save
    """,
    "sparse": """
        SparseConditionalAccumulator merge placeholder reduce_max_sparse reduce_sum_sparse
    """,
    "summary": """
        Event FileWriter FileWriterCache SessionLog Summary SummaryDescription TaggedRunMetadata
        all_v2_summary_ops get_summary_description initialize merge merge_all tensor_summary
    """,
    "train": """
        AdadeltaOptimizer AdagradDAOptimizer AdagradOptimizer AdamOptimizer CheckpointSaverHook
        CheckpointSaverListener ChiefSessionCreator FeedFnHook FinalOpsHook FtrlOptimizer
        GlobalStepWaiterHook GradientDescentOptimizer LoggingTensorHook LooperThread
        MomentumOptimizer MonitoredSession MonitoredTrainingSession NanLossDuringTrainingError
        NanTensorHook NewCheckpointReader Optimizer ProfilerHook ProximalAdagradOptimizer
        ProximalGradientDescentOptimizer QueueRunner RMSPropOptimizer Saver SaverDef Scaffold
        SecondOrStepTimer SessionCreator SessionManager SessionRunArgs SessionRunContext
        SessionRunHook SessionRunValues SingularMonitoredSession StepCounterHook StopAtStepHook
        SummarySaverHook Supervisor SyncReplicasOptimizer VocabInfo WorkerSessionCreator
        add_queue_runner assert_global_step basic_train_loop batch batch_join checkpoint_exists
        cosine_decay cosine_decay_restarts create_global_step do_quantize_training_on_graphdef
        exponential_decay export_meta_graph generate_checkpoint_state_proto get_checkpoint_mtimes
        get_global_step get_or_create_global_step global_step import_meta_graph init_from_checkpoint
        input_producer inverse_time_decay limit_epochs linear_cosine_decay maybe_batch
        maybe_batch_join maybe_shuffle_batch maybe_shuffle_batch_join natural_exp_decay
        noisy_linear_cosine_decay piecewise_constant piecewise_constant_decay polynomial_decay
        range_input_producer remove_checkpoint replica_device_setter sdca_fprint sdca_optimizer
        sdca_shrink_l1 shuffle_batch shuffle_batch_join slice_input_producer start_queue_runners
        string_input_producer summary_iterator update_checkpoint_state warm_start
    """,
}
"""Module of TensorFlow 1 → names in it that the one of TensorFlow 2 lacks."""

_FILES = """
    Copy=copy DeleteRecursively=rmtree Exists=exists FastGFile=GFile GFile Glob=glob
    IsDirectory=isdir ListDirectory=listdir MakeDirs=makedirs MkDir=mkdir Open=GFile Remove=remove
    Rename=rename Stat=stat Walk=walk
"""
"""`tf.gfile` → `tf.io.gfile`."""


def _words(text: str) -> Iterator[tuple[str, str]]:
    """Pairs of an old name and the last part of the new one."""
    for word in text.split():
        old, _, new = word.partition("=")
        yield old, new or old.rpartition(".")[2]


def _full(*parts: str) -> str:
    """A full name in TensorFlow."""
    return ".".join(["tensorflow", *filter(None, parts)])


TENSORFLOW_MODULES = {
    **{_full(module): _full("compat.v1", module) for module in _MODULES.split()},
    "tensorflow.python_io": "tensorflow.io",
    "tensorflow.spectral": "tensorflow.signal",
}
"""Modules of TensorFlow 1, and where they are."""

TENSORFLOW_NAMES = {
    **{
        _full(module, name): _full("compat.v1", module, name)
        for module, names in _ONLY_BEFORE.items()
        for name in names.split()
    },
    **{
        _full(old): _full(module, new)
        for module, names in _MOVED.items()
        for old, new in _words(names)
    },
    **{_full("gfile", old): _full("io.gfile", new) for old, new in _words(_FILES)},
    "tensorflow.batch_gather": "bert4keras.backend.batch_gather",
    "tensorflow.global_norm": "tensorflow.linalg.global_norm",
    "tensorflow.lin_space": "tensorflow.linspace",
    "tensorflow.log_sigmoid": "tensorflow.math.log_sigmoid",
    "tensorflow.matrix_diag": "tensorflow.linalg.diag",
    "tensorflow.matrix_transpose": "tensorflow.linalg.matrix_transpose",
    "tensorflow.random.set_random_seed": "tensorflow.random.set_seed",
    "tensorflow.random_normal": "tensorflow.random.normal",
    "tensorflow.random_shuffle": "tensorflow.random.shuffle",
    "tensorflow.random_uniform": "tensorflow.random.uniform",
    "tensorflow.rsqrt": "tensorflow.math.rsqrt",
    "tensorflow.set_random_seed": "tensorflow.random.set_seed",
    "tensorflow.truncated_normal": "tensorflow.random.truncated_normal",
}
"""Names of TensorFlow 1, and what they are called."""
